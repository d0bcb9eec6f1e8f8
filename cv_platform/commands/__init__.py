"""The command line, one file a subject. Belongs here: arguments, progress, what is printed, exit codes."""
