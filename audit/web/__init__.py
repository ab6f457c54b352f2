"""The page on which a rater judges, as static files. Answers stay in the browser until they are downloaded."""
