"""Message handlers for Memphis and NATS JetStream."""
