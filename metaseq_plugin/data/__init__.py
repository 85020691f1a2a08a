"""From text files to batches: documents read, looked at, cleaned, and binarised once or streamed."""
