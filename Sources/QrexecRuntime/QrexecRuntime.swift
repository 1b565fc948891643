// Operating system services.
