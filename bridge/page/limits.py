"""How much, and how long, the page's server bears."""

MAX_VIEWERS = 64
"""WebSockets, streams, WebRTC connections and senders together."""
VISITS_PER_S = 20.0
VISITS_BURST = 2.0 * MAX_VIEWERS
"""WebSockets that are opened, of all viewers together; each costs some milliseconds of the interpreter."""
VISIT_WAIT_S = 1.0
"""So long one waits for its turn; who would have to wait longer is refused."""
MAX_IN_FLIGHT = 2
MAX_MESSAGE_BYTES = 256 * 1024
"""Larger than any message with a meaning, so that a prompt of 100 kB is answered and not cut off."""
SEND_TIMEOUT_S = 5.0
"""A viewer whose connection takes no byte for so long is dropped."""
LINGER_S = 2.0
LINGER_BYTES = 64 << 20
"""How long, and how much, a viewer that was closed with a reason may still send before its connection is cut."""
HEARTBEAT_S = 20.0
STATS_EVERY_S = 0.5
STATS_LOOK_BACK_S = 5.0
MESSAGES_PER_S = 200
"""Messages that one viewer may send; two credits per frame at 60 Hz and a dragged slider stay below."""
SNAPSHOT_S = 3.0
"""How long a snapshot waits for a picture."""
UPLOAD_S = 30.0
"""How long a picture that is sent as a file may take."""
STREAM_REPEAT_S = 5.0
"""A still picture is sent again on the MJPEG stream so often: it finds out who has left."""
