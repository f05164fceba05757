"""OAT, our small object-level attention transformer: the network, the simulated searchers it learnt from, the trainer."""
