"""What people see: tables, lines that fit, errors; nothing of a stranger's that could steer a terminal."""
