"""The mathematics: spectrogram, forward process, what the network is asked for, samplers."""
