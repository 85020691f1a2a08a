"""``metaseq data clean``: workers judge and mend, copies are found in order, what stays is written."""
