// A frameloom channel by WebRTC, for viewers far away: smaller than JPEG, later and less sharp. The gateway needs its
// extra for it (README.md).
//   import { connect } from "./frameloom-webrtc.js";
//   video.srcObject = await connect("https://stage.example.org/?token=...", "stage");
//   await video.play(); // muted, or after a click: browsers want it so
//   material.map = new VideoTexture(video);
import { address } from "./frameloom-feed.js";

const GATHER_MS = 3000; // a STUN server that does not answer holds nobody up longer

/**
 * The pictures of one channel as a MediaStream with one video track. Rejects with a sentence that says what to do.
 *
 * url, channel: as for Feed. side "out" (default) or "in". iceServers: as for RTCPeerConnection, for viewers behind a
 * router. signal: an AbortSignal that ends the connection; so does `stream.getTracks()[0].stop()`. When the gateway ends
 * it, the track's `ended` event says so (and `onended` is called): connect again, with a pause.
 */
export async function connect(url, channel, { side = "out", iceServers = [], signal = null, onended = null } = {}) {
  signal?.throwIfAborted();
  const connection = new RTCPeerConnection({ iceServers });
  const { receiver } = connection.addTransceiver("video", { direction: "recvonly" });
  const { track } = receiver;
  let over = false;
  const end = () => {
    if (over) return;
    over = true;
    signal?.removeEventListener("abort", end);
    connection.close();
    stop();
    track.dispatchEvent(new Event("ended"));
    onended?.();
  };
  const stop = track.stop.bind(track);
  track.stop = end; // a stopped track alone would leave the gateway sending
  connection.addEventListener("connectionstatechange", () => {
    if (["failed", "closed"].includes(connection.connectionState)) end();
  });
  signal?.addEventListener("abort", end);
  try {
    await connection.setLocalDescription();
    // The connection's own state tells of a goodbye only after many seconds without a sign of life.
    receiver.transport?.addEventListener("statechange", () => {
      if (["closed", "failed"].includes(receiver.transport.state)) end();
    });
    await gathered(connection);
    // Plain text needs no leave in advance when the page is of another, allowed, origin.
    const answer = await fetch(address(url, "webrtc", { channel, side }), {
      method: "POST",
      headers: { "Content-Type": "text/plain" },
      body: JSON.stringify(connection.localDescription),
      signal,
    });
    if (!answer.ok) throw new Error(await answer.text());
    await connection.setRemoteDescription(await answer.json());
  } catch (error) {
    end();
    throw error;
  }
  return new MediaStream([track]);
}

function gathered(connection) {
  return new Promise((resolve) => {
    const look = () => {
      if (connection.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(resolve, GATHER_MS);
    connection.addEventListener("icegatheringstatechange", look);
    look();
  });
}
