"""Classes of 2D images, in a folder that can be killed and goes on."""
