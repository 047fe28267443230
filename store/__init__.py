"""What happened, kept: a durable spool beside each replica, and the tables that it is shipped to."""
