"""What is made of a run's results: tables read back, intervals, figures."""
