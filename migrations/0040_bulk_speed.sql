-- Statistics for less: PostgreSQL looks at 300 rows for each unit of the statistics target, 30,000 of a table by default, which was
-- a seventh of what a bulk file of 60 MB cost. To plan look-ups by keys 3,000 say as much; autovacuum looks more closely later.

alter function keep_statistics() set default_statistics_target = 10;
