"""Control planes: how stations, producers and consumer groups are made on each kind of broker."""
