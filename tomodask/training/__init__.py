"""What every training shares: where it is kept, batches made ahead, how it is seen as it goes."""
