"""What both planes stand on: claims, errors, the database, the edge, the audit chain, time."""
