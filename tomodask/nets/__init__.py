"""Networks: the only room that imports PyTorch or OpenVINO, each only where it is needed."""
