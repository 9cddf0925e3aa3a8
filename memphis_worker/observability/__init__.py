"""What others see of a worker: logs, metrics and health. Each part can be left out; none can disturb a message."""
