"""Networks that look at whole boxes: what they are, their file, their training, what they say."""
