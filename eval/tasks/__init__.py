"""A task turns an encoder and data into figures; one file each."""
