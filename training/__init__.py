"""Offline training: data -> network -> fit -> export -> evaluate. Writes models/<name>/<version>/ for the service."""
