/** The microphone, or the sound of a shared tab, as frames of 100 ms. */

import workletUrl from "./worklet.ts?worker&url";
import { SAMPLE_RATE_HZ } from "./wire.ts";

/** `tab` asks the person which tab or window to listen to. */
export type Source = { kind: "microphone"; deviceId?: string } | { kind: "tab" };

export interface Frame {
  audio: Uint8Array;
  /** RMS, 0 to 1. */
  level: number;
}

/** Why there is no sound, in words for the person. */
export class CaptureError extends Error {}

export class Capture {
  private constructor(
    readonly label: string,
    private readonly stream: MediaStream,
    private readonly context: AudioContext,
    private readonly node: AudioWorkletNode,
  ) {}

  /**
   * Open the source. `ended` is told when the device goes away.
   *
   * Throws CaptureError: refused, no device, in use by another program.
   */
  static async open(source: Source, heard: (frame: Frame) => void, ended: () => void): Promise<Capture> {
    const stream = await opened(source);
    const track = stream.getAudioTracks()[0];
    if (!track) {
      for (const one of stream.getTracks()) one.stop();
      throw new CaptureError("What you share has no sound. Choose a tab and tick “Also share tab audio”.");
    }
    track.onended = ended;
    const [context, input] = await contextFor(stream);
    await context.audioWorklet.addModule(workletUrl);
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }: MessageEvent<Frame>) => {
      if (data.audio) heard(data);
    };
    input.connect(node);
    return new Capture(track.label, stream, context, node);
  }

  /** Whether the browser waits for a gesture of the person before it lets us hear. */
  get isSuspended(): boolean {
    return this.context.state === "suspended";
  }

  async wake(): Promise<void> {
    await this.context.resume();
  }

  /** Mute or unmute at the source. */
  mute(muted: boolean): void {
    for (const track of this.stream.getAudioTracks()) track.enabled = !muted;
  }

  /** Hand out what is left of the last frame and let go of the device. */
  async close(): Promise<void> {
    const heard = this.node.port.onmessage;
    const end = new Promise<void>((resolve) => {
      this.node.port.onmessage = (message: MessageEvent<Frame & { end?: boolean }>) => {
        if (message.data.end) resolve();
        else heard?.call(this.node.port, message);
      };
      // A context that does not run does not answer.
      setTimeout(resolve, 300);
    });
    this.node.port.postMessage("end");
    await end;
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    await this.context.close();
  }
}

/** The microphones; without names until the person has allowed one. */
export async function microphones(): Promise<MediaDeviceInfo[]> {
  const devices = await (navigator.mediaDevices?.enumerateDevices() ?? Promise.resolve([]));
  return devices.filter((one) => one.kind === "audioinput" && one.deviceId);
}

async function opened(source: Source): Promise<MediaStream> {
  if (!navigator.mediaDevices) {
    throw new CaptureError("The browser gives the microphone only to pages that come over HTTPS (or from this machine).");
  }
  try {
    if (source.kind === "tab") return await navigator.mediaDevices.getDisplayMedia({ audio: true, video: true });
    const deviceId = source.deviceId ? { exact: source.deviceId } : undefined;
    const audio = { deviceId, channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (fault) {
    throw new CaptureError(WHY[(fault as DOMException).name] ?? "The microphone does not work.");
  }
}

const WHY: Record<string, string> = {
  NotAllowedError: "The browser may not use the microphone. Allow it in the address bar, then try again.",
  NotFoundError: "There is no microphone. Connect one, then try again.",
  OverconstrainedError: "That microphone is gone. Choose another one.",
  NotReadableError: "Another program is using the microphone. Close it, then try again.",
};

/** A context of 16 kHz, or where that cannot take the stream (Firefox), of the device's own rate: the worklet resamples. */
async function contextFor(stream: MediaStream): Promise<[AudioContext, MediaStreamAudioSourceNode]> {
  const context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch {
    await context.close();
    const own = new AudioContext();
    return [own, own.createMediaStreamSource(stream)];
  }
}
