"""The paper of ML-ECS (arXiv 2602.14107): its profile, what it prints, its tables, figures and claims."""
