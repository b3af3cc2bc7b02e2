"""What comes from outside by URL: judged before it is asked for, verified before it is seen."""
