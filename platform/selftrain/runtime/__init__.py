"""Ray and the processes of this machine: start, watch, share, end."""
