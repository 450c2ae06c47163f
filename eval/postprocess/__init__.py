"""What can be done to raw vectors by a linear map, and what it is fitted on."""
