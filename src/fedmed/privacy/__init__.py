"""What a hospital does to its update before it leaves. Knows numpy only."""
