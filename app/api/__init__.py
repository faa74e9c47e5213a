"""HTTP only: translates between requests and the packages below, and decides nothing."""
