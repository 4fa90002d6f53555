"""Training of an encoder of boxes without labels: MoCo, SimCLR and SwAV."""
