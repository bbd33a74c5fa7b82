"""How often a queue delivers twice, and how late: the experiment, its records, its statistics, and a model of it."""
