"""Looking at a data set: every byte verified, leaks between splits, what is in it."""
