"""Features of boxes: made and kept, mapped, their neighbours found, particles chosen by them."""
