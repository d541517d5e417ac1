"""Checkpoints of the SGMSE+ project read into ours."""
