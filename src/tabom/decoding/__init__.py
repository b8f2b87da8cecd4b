"""One decoding loop, its policies, and the records it emits."""
