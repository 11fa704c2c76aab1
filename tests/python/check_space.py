#!/usr/bin/env python3
"""Import the app of a Space and draw one picture, by its function and through its server.

    check_space.py FOLDER LABEL PICTURE

FOLDER holds the Space's files; PICTURE is the published picture of that label with number 0 and seed 0, which has to come
out again, but for the last bit. Prints what the app says of the model.
"""

import os
import sys
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, sys.argv[1])

import numpy as np
from gradio_client import Client
from PIL import Image

import app

label, wanted = sys.argv[2], np.asarray(Image.open(sys.argv[3]).convert("RGB"), dtype=np.int16)


def check(picture):
    drawn = np.asarray(picture.convert("RGB"), dtype=np.int16)
    assert drawn.shape == wanted.shape, (drawn.shape, wanted.shape)
    worst = int(np.abs(drawn - wanted).max())
    assert worst <= 1, f"the picture differs by {worst} from the published one"


steps, guidance = app.inference.DEFAULT_STEPS, app.inference.DEFAULT_GUIDANCE
pictures, said = app.draw(label, 1, 0, steps, guidance)
assert len(pictures) == 1
check(pictures[0])

_, url, _ = app.demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, share=False)
gallery, served = Client(url, verbose=False).predict(label, 1, 0, steps, guidance, api_name="/draw")
check(Image.open(Path(gallery[0]["image"])))
assert served == said
app.demo.close()
print(said)
