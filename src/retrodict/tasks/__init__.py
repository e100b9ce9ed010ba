"""From files or a configuration to a result: one function for each thing that a user does."""
