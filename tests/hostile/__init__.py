"""Files of strangers, made by the hundred, and what comes of opening them."""
