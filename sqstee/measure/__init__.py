"""How often a queue delivers a message twice, and how late: an experiment, its records and statistics, and a model."""
