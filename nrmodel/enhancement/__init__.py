"""Sound in, enhanced sound out: arrays, files, and the clip that is judged before it is used."""
