"""What a model can do: LAMBADA, WikiText, and the zero- and few-shot tasks of OPT's paper."""
