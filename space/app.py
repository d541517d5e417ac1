"""The page as a Hugging Face Space."""

import threading

import nrmodel
from nrmodel.app.page import serving

with serving(nrmodel.load(), host="0.0.0.0"):
    threading.Event().wait()
