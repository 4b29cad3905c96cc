-- How fast the queue drains: each worker process says in its report how many jobs it brought to their end since its start. Whoever
-- refuses a submission because the queue is full computes `Retry-After` from it.
alter table workers add column jobs_ended bigint not null default 0;
