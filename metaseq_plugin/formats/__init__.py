"""A model on disk in anyone's form: fairseq's, Hugging Face's or metaseq's, read and written."""
