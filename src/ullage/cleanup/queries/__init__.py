"""What a cleanup may take, the plans and jobs that take it, and how far each has come."""
