"""What an adapter or one hospital's update gives away: attacks that measure it. evaluation -> HERE -> pipeline."""
