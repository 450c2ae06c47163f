"""Reading tables of texts, and writing files so that no crash leaves a part of one."""
