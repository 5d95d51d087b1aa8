"""All that lies in the folder of a run."""
