"""Bringing data from elsewhere: transfers that resume, archives, a cache by content, data sets behind an address."""
