-- Roles and databases of the team, each open to its owner alone. Runs at the first start of Postgres; run again, it
-- gives the roles the passwords that the secrets now hold, and makes what is missing.
\set ON_ERROR_STOP on
\set mlflow_password `cat "${SECRETS:-/run/secrets}/mlflow-database"`
\set prefect_password `cat "${SECRETS:-/run/secrets}/prefect-database"`

SELECT format('CREATE ROLE %I LOGIN', role) FROM (VALUES ('mlflow'), ('prefect')) AS wanted (role)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

ALTER ROLE mlflow PASSWORD :'mlflow_password';
ALTER ROLE prefect PASSWORD :'prefect_password';

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8''', database, role)
FROM (VALUES ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow'), ('prefect', 'prefect')) AS wanted (database, role)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = database) \gexec

REVOKE ALL ON DATABASE mlflow, mlflow_auth, prefect FROM PUBLIC;
