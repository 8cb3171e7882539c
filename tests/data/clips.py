"""Small video files, written by PyAV where a test needs them."""

from fractions import Fraction

import av
import numpy as np

BASE = Fraction(1, 1000)


def write(path, stamps, size=32, gop=12, codec="mpeg4", audio=False, shade=lambda i: 12 * i % 250):
    """A clip whose frame i, stamped stamps[i] seconds, is grey of brightness shade(i)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = BASE
        stream.codec_context.gop_size = gop
        sound = container.add_stream("aac", rate=8000) if audio else None
        for i, stamp in enumerate(stamps):
            pixels = np.full((size, size, 3), shade(i), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(stamp / BASE), BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            container.mux(sound.encode(_silence(8000)))
            container.mux(sound.encode(None))
    return path


def write_sound(path):
    """A file with a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        container.mux(stream.encode(_silence(8000)))
        container.mux(stream.encode(None))
    return path


def _silence(samples):
    silence = np.zeros((1, samples), np.int16)
    frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
    frame.rate = 8000
    return frame
