"""The gateway: sockets, sessions, intake of frames, and the broker that serves workers."""
