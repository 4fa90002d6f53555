"""The main job, from a tomogram to the average of its particles."""
