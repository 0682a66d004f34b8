# For the entry point of the postgres image, which reads this once, in an empty data folder.
psql --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --file /etc/secondlook-postgres/roles.sql
