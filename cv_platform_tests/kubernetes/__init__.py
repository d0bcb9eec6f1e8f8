"""The platform on Kubernetes: the real launcher, executor, monitor and daemon against a stub of the API."""
