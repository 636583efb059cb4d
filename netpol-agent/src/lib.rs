//! netpol-agent.
